-- Because of the default of retention.relayed, which counts for a table that outboxd migrate made: the daemon deletes messages.
do $$
begin
    if {made} then
        grant delete on {messages} to outboxd_relay;
    end if;
end
$$;
