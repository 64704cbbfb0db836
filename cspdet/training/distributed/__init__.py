"""Distributed training: process group, collectives, rendezvous, synchronized batch norm."""
