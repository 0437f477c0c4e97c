{{ emails_by_key('lead', 'toString({lead:Int64})', 'lead_id = {lead:Int64}') }}
