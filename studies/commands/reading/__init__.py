"""What was typed, read: values of options, names, a file of options, the configurations that they ask for."""
