//! Habits as tests: import direction, file length, banned calls, docs that match.
