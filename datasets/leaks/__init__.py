"""Controls that show what footage gives away: cuts and colours alone, shuffled labels, shared clips."""
