//! Several real processes on one store, and processes that are killed.
