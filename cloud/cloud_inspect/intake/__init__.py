"""From the broker into the database: nothing is lost, nothing is kept twice."""
