"""Hosts of a replicated log on a virtual clock: the production cores, and around them a network, disks and faults."""
