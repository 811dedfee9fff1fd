"""The optimum: what a fit minimises, where its lowest point is, and how far from it another point is."""
