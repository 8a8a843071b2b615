"""simfl: federated-learning simulation on Ray."""
