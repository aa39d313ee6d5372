// One subscription with Node's `ws`: node subscriber.mjs URL COUNT DEFLATE. Prints one JSON object and ends.
import WebSocket from "ws";

const [url, count, deflate] = process.argv.slice(2);
const socket = new WebSocket(url, { perMessageDeflate: deflate === "true" });
const messages = [];

socket.on("message", (data, binary) => {
  messages.push({ binary, data: data.toString("base64") });
  if (messages.length === Number(count)) socket.close(1000);
});
socket.on("error", (error) => console.error(String(error)));
socket.on("close", (code, reason) => {
  console.log(JSON.stringify({ extensions: socket.extensions, messages, code, reason: String(reason) }));
});
