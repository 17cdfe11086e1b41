"""Loss terms that two methods share: pure functions of tensors."""
