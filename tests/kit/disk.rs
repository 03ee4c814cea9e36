//! Disks that record what is done to them, lose what was not made durable, or fail at a chosen call.
