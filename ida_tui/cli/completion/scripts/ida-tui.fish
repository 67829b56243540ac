# Completions of ida-tui for fish.
#   ida-tui completions fish > ~/.config/fish/completions/ida-tui.fish
function __ida_tui_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    $words[1] __complete fish $words[2..-1] "$current" 2>/dev/null
end
complete -c ida-tui -f -a '(__ida_tui_complete)'
