"""Training in several processes: ranks, collectives, rendezvous, synchronized batch norm."""
