"""Measurements of the appliance under load: `python -m bench.fanout` and `python -m bench.engine`."""
