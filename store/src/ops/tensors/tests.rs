//! Temporary
