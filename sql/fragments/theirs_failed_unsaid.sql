-- Their table cannot say that an attempt was the last.
select w.outboxd_seq, false as outboxd_still from chosen w where w.outboxd_ends
