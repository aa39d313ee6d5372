"""Websocket fan-out: each subscriber gets the flashblock log from its position on, without gap or duplicate."""
