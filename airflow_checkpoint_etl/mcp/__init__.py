"""An MCP server over the read model and the commands: ``checkpoint-etl-mcp``. No SQL is here."""
