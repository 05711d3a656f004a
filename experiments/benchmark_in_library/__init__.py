"""The published benchmark, same structures in training and test."""
