"""Shell completion for bash, zsh and fish, which argcomplete answers from the arguments of the commands."""
