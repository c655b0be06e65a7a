"""What a network costs: the paper's sizes, and true bytes and cycles predicted without compiling."""
