"""An architecture as a trainable network: layers, Bayesian sparse layers, training, inheriting weights."""
