"""The pure core: values, NAT model, classification, planning. No sockets, no clock, no asyncio, no Ray."""
