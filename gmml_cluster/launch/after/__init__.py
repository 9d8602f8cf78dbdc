"""After a start of a job: how its ranks left, what that proves, and whether it is started again."""
