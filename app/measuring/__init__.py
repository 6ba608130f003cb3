"""What the server knows about itself: counts, durations and the lag of its loop, all bounded, none of it I/O."""
