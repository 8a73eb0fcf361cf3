//! Answers of a UserHub, or of somebody in its place, that means harm.
