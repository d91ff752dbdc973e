"""NAT laboratories: network namespaces on the real kernel."""
