"""Where rows come from and where labels go."""
