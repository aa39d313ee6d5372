"""A devnet in one process: a simulated op-node, execution clients and builders with real blocks and real sockets.

For `appliance dev`, tests and benches. `network.Devnet` is the whole; each part also runs alone as a
simulated upstream.
"""
