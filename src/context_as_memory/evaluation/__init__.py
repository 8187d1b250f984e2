"""The yardstick: protocols (each way of measuring once), suites of them, and the metrics that they use."""
