"""The published networks in torch, written from their description with torch's own layers, to compare ours with."""
