"""The optimiser: scalarisation, surrogate, sampler, stages; the ledger of trials; who evaluates."""
