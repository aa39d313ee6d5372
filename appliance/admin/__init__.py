"""The operators' HTTP: metrics, health and status. It reads what the planes offer and computes nothing."""
