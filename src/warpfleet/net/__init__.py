"""What touches a network: vantages, sockets, STUN, NAT probing, TURN, pipes and the proof of identity on them."""
