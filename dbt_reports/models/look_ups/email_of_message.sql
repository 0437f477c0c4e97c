{{ emails_by_key('message_id', 'toString({message_id:UUID})', 'message_id = {message_id:UUID}', is_of_old=false) }}
