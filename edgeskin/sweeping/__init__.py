"""The sweep: many trainings of one plan, each evaluated on the test role, and one table out of all."""
