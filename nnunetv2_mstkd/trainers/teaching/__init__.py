"""The ways of having a teacher; one of them serves a training, by its ``teacher`` setting."""
