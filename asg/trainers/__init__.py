"""Trainers: one loop, and what each task puts on top of it."""
