//! The command as its users meet it: help, messages, exit codes, JSON.
