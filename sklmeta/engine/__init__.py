"""The torch side: episodes, learners, the outer loop, and inference."""
