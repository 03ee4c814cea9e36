//! Both orders of put and gc on one pack, and the other races of HEAD, step by step.
