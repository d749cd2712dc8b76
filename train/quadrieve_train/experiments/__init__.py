"""The paper's experiments, each one command: arms that differ in one thing, seeds, a table, a picture and a verdict."""
