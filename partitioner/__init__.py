"""From a model to a recommended cut: load, trace, export, verify, sweep, recommend, render."""
