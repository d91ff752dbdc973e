"""Port mapping: how a gateway is found, and asked to let strangers in to a port of ours (PCP, NAT-PMP, UPnP-IGD)."""
