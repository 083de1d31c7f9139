-- Their table cannot say that another attempt follows.
select w.outboxd_seq from chosen w where not w.outboxd_ends
