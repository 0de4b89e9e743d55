"""What commands that write a directory share: whole files, signals, several processes, errors that are the user's to mend."""
