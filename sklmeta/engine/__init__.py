"""What all learners share: episodes, the mapping over tasks, training, inference."""
