"""AgentDojo's environments driven by scripted, fully hijacked agents through `sift-kernel serve`."""
