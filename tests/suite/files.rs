//! Trees of files: empty ones, links, modes, odd names, thousands of small ones.
