"""The appliance: Engine API multiplexer, durable flashblock log and websocket fan-out in one Trio process."""

__version__ = "0.1.0"
