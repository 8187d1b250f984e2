"""Pictures for people: one map from above, the memory inspector, the choice of `cam retrieve`, sheets side by side."""
