"""Pure data: no input or output, no clock, no import from any other room."""
