"""Where the plant keeps what its devices report: tables, engine, migrations."""
