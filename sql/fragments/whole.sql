-- The messages table with the contents of messages, where speed does not matter.
{messages}
